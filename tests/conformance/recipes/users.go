package recipes

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// usersTime is how long users may be asked for after a check before somebody switches them off.
const usersTime = 20 * time.Second

// users asks everybody who they are for the time of a check, and removes its users at the end.
func users(t *trial) (err error) {
	asUser := func(name string) (*clientv3.Client, error) {
		configuration := configuration(t.endpoints)
		configuration.Username, configuration.Password = name, name
		return clientv3.New(configuration)
	}
	if err := introduce(t); err != nil {
		return errors.Join(err, forget(t.client))
	}
	root, err := asUser("root")
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), usersTime)
		defer cancel()
		_, off := root.AuthDisable(ctx)
		err = errors.Join(err, off, forget(t.client), root.Close())
	}()
	anna, err := asUser("anna")
	if err != nil {
		return err
	}
	defer anna.Close()
	own, foreign := t.prefix+"own", t.prefix+"foreign"
	put := func(client *clientv3.Client, key string) error {
		_, err := client.Put(t.ctx, key, "x")
		return err
	}
	changed := anna.Watch(t.ctx, own)
	denied := <-anna.Watch(t.ctx, foreign)
	return inOrder(
		func() error { return put(anna, own) },
		func() error { return expect("events", len((<-changed).Events), 1) },
		func() error { return expect("foreign watch", denied.Canceled, true) },
		func() error { return expect("foreign put", put(anna, foreign), rpctypes.ErrPermissionDenied) },
		func() error { return expect("nobody", put(t.client, own), rpctypes.ErrUserEmpty) },
		func() error { return put(root, foreign) },
		func() error {
			// Its token ends with the password; the client knows the old one only.
			_, err := root.UserChangePassword(t.ctx, "anna", "other")
			return err
		},
		func() error { return expect("old password", put(anna, own) != nil, true) },
		func() error {
			_, err := root.UserChangePassword(t.ctx, "anna", "anna")
			return err
		},
		// The client comes by another token by itself.
		func() error { return put(anna, own) },
	)
}

func introduce(t *trial) error {
	own := t.prefix + "own"
	may := clientv3.PermissionType(clientv3.PermReadWrite)
	var failures []error
	note := func(_ any, err error) { failures = append(failures, err) }
	note(t.client.UserAdd(t.ctx, "root", "root"))
	note(t.client.UserAdd(t.ctx, "anna", "anna"))
	note(t.client.RoleAdd(t.ctx, "writer"))
	note(t.client.RoleGrantPermission(t.ctx, "writer", own, "", may))
	note(t.client.UserGrantRole(t.ctx, "root", "root"))
	note(t.client.UserGrantRole(t.ctx, "anna", "writer"))
	note(t.client.AuthEnable(t.ctx))
	return errors.Join(failures...)
}

func forget(client *clientv3.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), usersTime)
	defer cancel()
	_, root := client.UserDelete(ctx, "root")
	_, anna := client.UserDelete(ctx, "anna")
	_, role := client.RoleDelete(ctx, "writer")
	return errors.Join(root, anna, role)
}

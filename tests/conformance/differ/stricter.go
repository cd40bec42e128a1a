package differ

import "google.golang.org/grpc/codes"

// duplicateKey is what a transaction is refused with that changes a key twice.
const duplicateKey = "etcdserver: duplicate key given in txn request"

// isStricter tells whether a difference is the one in which Holdfast is stricter on purpose: a
// transaction in which one list puts a key that another list, nested in it or beside it, deletes.
// etcd sees that only in some orders and lets the rest through; here one transaction writes a key
// once. What follows in a generated sequence would stand on different stores, so it ends there.
func isStricter(step *Step, left, right answer) bool {
	if step.Call != "KV/Txn" || left.code != codes.OK || right.text != duplicateKey {
		return false
	}
	var changes changes
	changes.collect(step.Request, new(int))
	for _, put := range changes.puts {
		for _, deletion := range changes.deletions {
			if put.list != deletion.list && deletion.covers(put.key) {
				return true
			}
		}
	}
	return false
}

// change is a put or a deletion and the number of the list it is in.
type change struct {
	list     int
	key, end string
}

func (c change) covers(key string) bool {
	switch c.end {
	case "":
		return key == c.key
	case "\x00":
		return key >= c.key
	}
	return key >= c.key && key < c.end
}

type changes struct {
	puts, deletions []change
}

func (c *changes) collect(txn object, lists *int) {
	for _, branch := range []string{"success", "failure"} {
		*lists++
		list := *lists
		steps, _ := txn[branch].([]any)
		for _, one := range steps {
			operation, _ := one.(object)
			if put, ok := operation["request_put"].(object); ok {
				c.puts = append(c.puts, changeOf(put, list))
			}
			if deletion, ok := operation["request_delete_range"].(object); ok {
				c.deletions = append(c.deletions, changeOf(deletion, list))
			}
			if nested, ok := operation["request_txn"].(object); ok {
				c.collect(nested, lists)
			}
		}
	}
}

func changeOf(request object, list int) change {
	key, _ := request["key"].(string)
	end, _ := request["range_end"].(string)
	return change{list, key, end}
}

// Command etcd is etcd's server, built from its published module.
//
// `go install` refuses a module with replace lines; importing its entry point does the same.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}

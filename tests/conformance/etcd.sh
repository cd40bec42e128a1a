# Sourced by what needs an etcd: builds server and etcdctl from their published modules into
# $work/bin, unless they are there. Expects $work; leaves Go's caches set to folders below it.

modules=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export GOMODCACHE=$work/go/mod GOCACHE=$work/go/build GOTOOLCHAIN=local
# A module cache that may be deleted like any other folder, and no search for a repository's state.
export GOFLAGS="${GOFLAGS:-} -modcacherw -buildvcs=false"

# The newest published state of etcd 3.4, whose module never had a version of that name.
old_etcdctl=go.etcd.io/etcd/etcdctl@v0.5.0-alpha.5.0.20200910180754-dd1b699fc489

if [ ! -x "$work/bin/etcd" ] || [ ! -x "$work/bin/etcdctl" ] ||
  [ "$modules/go.sum" -nt "$work/bin/etcd" ]; then
  mkdir -p "$work/bin"
  (cd "$modules" && go build -trimpath -o "$work/bin/" ./etcd ./etcdctl)
  touch "$work/bin/etcd"
fi
# Not head: it leaves, and etcd ends by a broken pipe.
"$work/bin/etcd" --version | sed -n 1p

build_old_etcdctl() {
  [ -x "$work/bin-3.4/etcdctl" ] ||
    GOBIN="$work/bin-3.4" go install "$old_etcdctl" 2>"$work/etcdctl-3.4.log" ||
    { echo "etcdctl 3.4 cannot be built here: see $work/etcdctl-3.4.log" >&2; return 1; }
}

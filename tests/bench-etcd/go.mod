module holdfast/bench-etcd

go 1.26

require holdfast/conformance v0.0.0

replace holdfast/conformance => ../conformance

package differ

import (
	"fmt"
	"math/rand/v2"
)

const (
	// keysMost is how few keys the generated requests meet on.
	keysMost = 12
	// nestedMost is how deep generated transactions nest.
	nestedMost = 3
	// stepsOfListMost is how many steps a generated branch has.
	stepsOfListMost = 4
)

// Random asks both servers a generated sequence of requests; a seed names one.
func (d *Differ) Random(seed uint64, steps int) (Outcome, error) {
	g := &generator{rand.New(rand.NewPCG(seed, 0)), fmt.Sprintf("random/%d/", seed)}
	left := steps
	next := func() *Step {
		if left == 0 {
			return nil
		}
		left--
		return g.step()
	}
	return d.run(fmt.Sprintf("random, seed %d", seed), false, false, next)
}

type generator struct {
	*rand.Rand
	prefix string
}

type object = map[string]any

func (g *generator) one(in int) bool {
	return g.IntN(in) == 0
}

func (g *generator) step() *Step {
	switch n := g.IntN(100); {
	case n < 25:
		return &Step{Call: "KV/Put", Request: g.put()}
	case n < 35:
		return &Step{Call: "KV/DeleteRange", Request: g.deletion()}
	case n < 65:
		return &Step{Call: "KV/Range", Request: g.scan()}
	case n < 68:
		return &Step{Call: "KV/RangeStream", Request: g.stream()}
	case n < 98:
		return &Step{Call: "KV/Txn", Request: g.txn(0)}
	}
	return &Step{Call: "KV/Compact", Request: object{"revision": g.revision(), "physical": g.one(2)}}
}

func (g *generator) key() string {
	return g.prefix + string(rune('a'+g.IntN(keysMost)))
}

// interval sets a key and, at times, an end: a prefix, a piece, one that holds nothing.
func (g *generator) interval(request object, single int) object {
	request["key"] = g.key()
	switch {
	case g.one(single):
		request["key"], request["range_end"] = g.prefix, g.prefix+"~"
	case g.one(single):
		request["range_end"] = g.key()
	case g.one(40):
		request["key"] = ""
	}
	return request
}

func (g *generator) value() string {
	return fmt.Sprint(g.IntN(20))
}

// revision is near the present: older, newer, and at times nonsense.
func (g *generator) revision() any {
	switch {
	case g.one(20):
		return -1
	case g.one(20):
		return "$begin"
	}
	return fmt.Sprintf("$rev%+d", 1-g.IntN(15))
}

func (g *generator) put() object {
	put := object{"key": g.key(), "value": g.value()}
	switch g.IntN(20) {
	case 0:
		put["key"] = ""
	case 1:
		put["ignore_value"] = true
	case 2:
		put["ignore_value"] = true
		delete(put, "value")
	case 3:
		put["ignore_lease"] = true
	case 4:
		put["lease"] = 4711
	case 5:
		delete(put, "value")
	}
	if g.one(2) {
		put["prev_kv"] = true
	}
	return put
}

func (g *generator) deletion() object {
	return g.interval(object{"prev_kv": g.one(2)}, 4)
}

func (g *generator) scan() object {
	scan := g.interval(object{}, 2)
	if g.one(2) {
		scan["limit"] = g.IntN(keysMost) - 1
	}
	if g.one(4) {
		scan["revision"] = g.revision()
	}
	if g.one(3) {
		scan["sort_order"], scan["sort_target"] = g.IntN(3), g.IntN(5)
	}
	if g.one(60) {
		scan["sort_order"] = 7
	}
	for _, flag := range []string{"serializable", "keys_only", "count_only"} {
		if g.one(6) {
			scan[flag] = true
		}
	}
	for _, filter := range []string{
		"min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision",
	} {
		if g.one(12) {
			scan[filter] = g.revision()
		}
	}
	return scan
}

// stream is a scan that is answered in chunks. An order of its own is refused, but a target without
// an order is not: etcd then sorts every chunk by it and goes on behind the last key of what it has
// sorted, so that keys are left out or come twice. There is nothing in that to be equal to.
func (g *generator) stream() object {
	scan := g.scan()
	if scan["sort_order"] == 0 {
		delete(scan, "sort_target")
	}
	return scan
}

func (g *generator) txn(depth int) object {
	txn := object{}
	for _, branch := range []string{"success", "failure"} {
		steps := []any{}
		for range g.IntN(stepsOfListMost + 1) {
			steps = append(steps, g.operation(depth))
		}
		txn[branch] = steps
	}
	compares := []any{}
	for range g.IntN(3) {
		compares = append(compares, g.comparison())
	}
	txn["compare"] = compares
	return txn
}

func (g *generator) operation(depth int) object {
	switch n := g.IntN(20); {
	case n < 8:
		return object{"request_put": g.put()}
	case n < 11:
		return object{"request_delete_range": g.deletion()}
	case n < 17 || depth == nestedMost:
		return object{"request_range": g.scan()}
	default:
		return object{"request_txn": g.txn(depth + 1)}
	}
}

func (g *generator) comparison() object {
	compare := g.interval(object{"result": g.IntN(4)}, 6)
	switch g.IntN(5) {
	case 0:
		compare["target"], compare["version"] = "VERSION", g.IntN(4)
	case 1:
		compare["target"], compare["create_revision"] = "CREATE", g.revision()
	case 2:
		compare["target"], compare["mod_revision"] = "MOD", g.revision()
	case 3:
		compare["target"], compare["value"] = "VALUE", g.value()
	case 4:
		compare["target"], compare["lease"] = "LEASE", g.IntN(2)
	}
	return compare
}

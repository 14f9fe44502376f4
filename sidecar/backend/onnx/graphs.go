package onnx

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	mlcontext "github.com/gomlx/gomlx/pkg/ml/context"

	"github.com/tensorferry/tensorferry/tensor"
)

// maxGraphs is the number of graphs that are kept. Batches that are padded to powers of two need
// few. Rows with dimensions of any size may need any number, and then the graph that was not used
// for the longest time is dropped.
const maxGraphs = 32

// graphs keeps the compiled graph of each shape. It is safe for concurrent use.
type graphs struct {
	build func() (*mlcontext.Exec, error)

	mu    sync.Mutex
	clock int64
	kept  map[string]*compiled
}

// compiled is the graph of one shape. Its executor never runs another shape.
type compiled struct {
	key   string
	exec  *mlcontext.Exec
	users int
	used  int64

	tried atomic.Bool // building it was tried
	err   error       // why it cannot be built; valid once tried is true
}

// take returns the graph for inputs of these shapes. The graph is not evicted until the caller has
// returned it with give.
func (g *graphs) take(inputs []tensor.Tensor, batched bool, padded int64) (*compiled, error) {
	key := make([]byte, 0, 64)
	key = binary.AppendVarint(key, padded)
	for i := range inputs {
		key = append(key, '/')
		row := inputs[i].Shape
		if batched {
			row = row[1:]
		}
		for _, d := range row {
			key = binary.AppendVarint(key, d)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.kept[string(key)]
	if c == nil {
		if len(g.kept) >= maxGraphs {
			g.evict()
		}
		exec, err := g.build()
		if err != nil {
			return nil, err
		}
		c = &compiled{key: string(key), exec: exec}
		if g.kept == nil {
			g.kept = map[string]*compiled{}
		}
		g.kept[c.key] = c
	}
	g.clock++
	c.used = g.clock
	c.users++
	return c, nil
}

func (g *graphs) give(c *compiled) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.users--
}

// evict drops the least recently used of the graphs that are not in use, if there is one.
func (g *graphs) evict() {
	var oldest *compiled
	for _, c := range g.kept {
		if c.users == 0 && (oldest == nil || c.used < oldest.used) {
			oldest = c
		}
	}
	if oldest != nil {
		delete(g.kept, oldest.key)
		oldest.exec.Finalize()
	}
}

func (g *graphs) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.kept {
		c.exec.Finalize()
	}
	g.kept = nil
}

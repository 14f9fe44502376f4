package sidecar

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
	"github.com/tensorferry/tensorferry/tensor"
)

// BenchmarkSharedMemory sends rows to our own sidecar over a Unix socket, alternately in requests
// and through shared memory. ratio is the time in requests divided by the time through shared
// memory: more than 1 means that shared memory is faster.
func BenchmarkSharedMemory(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20, 16 << 20} {
		b.Run(fmt.Sprintf("row=%dKiB", size>>10), func(b *testing.B) {
			const window, pairs = 4, 7
			width := size / 4
			s := sidecartest.StartAt(b, sidecartest.Script{
				Function: "echo", Inputs: []tensor.Spec{{Name: "x", DType: tensor.FP32, Row: tensor.Shape{int64(width)}}},
			}, "unix://"+filepath.Join(b.TempDir(), "s"))
			plain := Config{Endpoint: s.Endpoint(), Model: s.Model(), MaxBytes: 64 << 20}
			shared := plain
			shared.SharedMemory, shared.SharedMemoryMin = 2*window*(2*size+minSlot), 1
			var loads [2]*load
			for i, cfg := range []Config{plain, shared} {
				loads[i] = newLoad(b, cfg, 1, window)
				for k := range loads[i].records {
					loads[i].records[k] = make(numbers, width)
				}
				defer loads[i].caller.Close()
			}
			n := max(b.N/pairs, min(1000, 256<<20/size))
			loads[0].run(b, n)
			loads[1].run(b, n)
			b.ResetTimer()
			var times [2][]float64
			var ratio []float64
			for range pairs {
				var took [2]float64
				for i, l := range loads {
					start := time.Now()
					l.run(b, n)
					took[i] = float64(time.Since(start)) / float64(n) / 1e3
					times[i] = append(times[i], took[i])
				}
				ratio = append(ratio, took[0]/took[1])
			}
			for _, s := range [][]float64{times[0], times[1], ratio} {
				slices.Sort(s)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(times[0][pairs/2], "requests-us/row")
			b.ReportMetric(times[1][pairs/2], "shared-us/row")
			b.ReportMetric(ratio[pairs/2], "ratio")
			b.ReportMetric(ratio[1], "ratio-low")
			b.ReportMetric(ratio[pairs-2], "ratio-high")
		})
	}
}

package stream

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// BenchmarkSnapshot keeps records as they are kept now, and as JSON, in turn. time-ratio and
// size-ratio are of the former to the latter.
func BenchmarkSnapshot(b *testing.B) {
	type features struct {
		ID     int64
		Values []float64
	}
	type event struct {
		ID   string            `json:"id"`
		At   time.Time         `json:"at"`
		Kind string            `json:"kind"`
		Tags map[string]string `json:"tags"`
		N    *int              `json:"n,omitempty"`
		Text string            `json:"text"`
	}
	r := rand.New(rand.NewPCG(1, 2))
	n := 7
	random, round := features{ID: 1}, features{ID: 2}
	image := make([]byte, 3072)
	for i := range 256 {
		random.Values = append(random.Values, r.NormFloat64())
		round.Values = append(round.Values, float64(i%17))
	}
	for i := range image {
		image[i] = byte(r.Uint32())
	}
	b.Run("raw", func(b *testing.B) {
		benchmarkSnapshot(b, json.RawMessage(`{"id":1364,"label":2,"pixels":[`+strings.Repeat("0,7,16,14,", 25)+`0]}`))
	})
	b.Run("random-features", func(b *testing.B) { benchmarkSnapshot(b, random) })
	b.Run("round-features", func(b *testing.B) { benchmarkSnapshot(b, round) })
	b.Run("image", func(b *testing.B) { benchmarkSnapshot(b, image) })
	b.Run("event", func(b *testing.B) {
		benchmarkSnapshot(b, event{"a-17", time.Now().UTC(), "click", map[string]string{"lang": "de", "place": "Köln"}, &n, strings.Repeat("some text ", 20)})
	})
	b.Run("number", func(b *testing.B) { benchmarkSnapshot(b, 123456) })
}

func benchmarkSnapshot[T any](b *testing.B, v T) {
	now, err := serializerFor[T](nil)
	if err != nil {
		b.Fatal(err)
	}
	const records = 256
	var scratch []byte
	rec := Record[T]{Value: v, Position: 1 << 20}
	snapshot := func(s Serializer[T]) (size int, took time.Duration) {
		began := time.Now()
		var data []byte
		for i := range records {
			var err error
			if data, err = appendEntry(data, i, &rec, s, &scratch); err != nil {
				b.Fatal(err)
			}
		}
		return len(data), time.Since(began)
	}
	var took, was time.Duration
	var size, had int
	for b.Loop() {
		var d time.Duration
		size, d = snapshot(now)
		took += d
		had, d = snapshot(jsonSerializer[T]{})
		was += d
	}
	b.ReportMetric(float64(took.Nanoseconds())/float64(b.N*records), "ns/record")
	b.ReportMetric(float64(took)/float64(was), "time-ratio")
	b.ReportMetric(float64(size)/float64(had), "size-ratio")
}

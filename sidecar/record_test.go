package sidecar_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
	"github.com/tensorferry/tensorferry/tensor"
)

// seasonal sends the model the month of the record's event time, and returns the key and position.
type seasonal struct{}

func (seasonal) Bind(tensor.Signature) (tensor.RowCodec[async.Record[string], string], error) {
	return seasonal{}, nil
}

func (seasonal) Encode(dst *tensor.Batch, r async.Record[string]) error {
	return dst.Column(0).AppendNumber(float64(r.Time.Time().UTC().Month()))
}

func (seasonal) Decode(r async.Record[string], src *tensor.Rows, i int) (string, error) {
	return fmt.Sprintf("%s %s@%d/%d: %v", r.Value, r.Key, r.Split, r.Position, src.Output(0).Number(i, 0)), nil
}

func TestACodecSeesTheWholeRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{})
		fn := sidecar.NewRecordFunction(sidecar.Config{Endpoint: s.Endpoint(), Dialer: s.Dialer(), Model: s.Model()}, seasonal{})
		op, err := async.NewOperator(fn, async.Config{}, async.Subtask{}, func() {})
		if err != nil {
			t.Fatal(err)
		}
		if err := op.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer op.Close()
		july := async.At(time.Date(2026, 7, 14, 0, 0, 0, 0, time.UTC))
		op.Admit([]async.Record[string]{{Value: "rain", Time: july, Key: "Oslo", Split: 3, Position: 99}})
		op.End()
		var got taken
		for ended := false; !ended; {
			st, err := op.Step(time.Now(), 10, &got)
			if err != nil {
				t.Fatal(err)
			}
			ended = st.Ended
			synctest.Wait()
		}
		if len(got) != 1 || got[0] != "rain Oslo@3/99: 14" {
			t.Fatal(got)
		}
	})
}

type taken []string

func (k *taken) Emit(recs []async.Record[string]) {
	for _, r := range recs {
		*k = append(*k, r.Value)
	}
}

func (k *taken) Watermark(async.Watermark) {}

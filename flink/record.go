package flink

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"unicode/utf8"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/flink/internal/eventtime"
)

// Record is a record with its place in the source, as pipelines that are made of job files use it.
// Its event time is Beam's.
type Record struct {
	// Value is one JSON object.
	Value []byte
	Key   string
	// Split and Position are those of async.Record.
	Split    int64
	Position int64
}

// encodeRecord is Record's coder: three numbers, the key with its length, the value.
func encodeRecord(r Record) []byte {
	b := make([]byte, 0, 3*binary.MaxVarintLen64+len(r.Key)+len(r.Value))
	b = binary.AppendVarint(b, r.Split)
	b = binary.AppendVarint(b, r.Position)
	b = binary.AppendUvarint(b, uint64(len(r.Key)))
	b = append(b, r.Key...)
	return append(b, r.Value...)
}

var errRecord = errors.New("flink: an encoded record is damaged")

func decodeRecord(b []byte) (r Record, err error) {
	var n int
	if r.Split, n = binary.Varint(b); n <= 0 {
		return r, errRecord
	}
	b = b[n:]
	if r.Position, n = binary.Varint(b); n <= 0 {
		return r, errRecord
	}
	b = b[n:]
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return r, errRecord
	}
	b = b[n:]
	// Copy, because Beam uses the buffer again.
	r.Key, r.Value = string(b[:size]), append([]byte(nil), b[size:]...)
	return r, nil
}

// FailedRecord is a Record that failed for good. Its fields are those of Failed.
type FailedRecord struct {
	Record   Record
	Class    string
	Error    string
	Attempts int
	// At is when the record failed, in milliseconds since the Unix epoch.
	At int64
}

// The type has its own coder, so that Flink handles it as bytes. Flink's side reads some of the
// rows that Beam's Go SDK makes of structs differently.
func encodeFailed(f FailedRecord) ([]byte, error) {
	form := failedForm{FailedRecord: f}
	if !utf8.ValidString(f.Record.Key) {
		form.Key = []byte(f.Record.Key)
	}
	return json.Marshal(form)
}

func decodeFailed(b []byte) (FailedRecord, error) {
	var form failedForm
	err := json.Unmarshal(b, &form)
	if form.Key != nil {
		form.Record.Key = string(form.Key)
	}
	return form.FailedRecord, err
}

// failedForm is a FailedRecord in JSON.
type failedForm struct {
	FailedRecord
	// Key is the record's key if it is not valid UTF-8. A Kafka record's key may be any bytes.
	Key []byte `json:",omitempty"`
}

// RecordMaker makes the function for Records, whose values are JSON objects.
type RecordMaker = Maker[json.RawMessage, json.RawMessage]

func init() {
	beam.RegisterCoder(reflect.TypeFor[Record](), encodeRecord, decodeRecord)
	beam.RegisterCoder(reflect.TypeFor[FailedRecord](), encodeFailed, decodeFailed)
	register.Emitter2[beam.EventTime, Record]()
	register.Emitter2[beam.EventTime, FailedRecord]()
}

// RegisterRecords tells Beam about InferRecords for a maker. Call it from an init function.
func RegisterRecords[M RecordMaker]() {
	register.DoFn5x1[context.Context, beam.EventTime, Record, func(beam.EventTime, Record), func(beam.EventTime, FailedRecord), error](&recordFn[M]{})
	registered.Store(reflect.TypeFor[recordFn[M]](), true)
}

// InferRecords is TryInfer for a collection of Records. The results keep the places of their
// records.
func InferRecords[M RecordMaker](s beam.Scope, records beam.PCollection, m M, c Config) (results, failed beam.PCollection, err error) {
	return apply(s, records, m, c, func(cargo shipment) any { return &recordFn[M]{Cargo: cargo} }, fmt.Sprintf("RegisterRecords[%v]", reflect.TypeFor[M]()))
}

// recordFn is inferFn for Records.
type recordFn[M RecordMaker] struct {
	Cargo shipment

	b    bundle[json.RawMessage, json.RawMessage]
	emit func(beam.EventTime, Record)
	fail func(beam.EventTime, FailedRecord)
}

func placed(r *async.Record[json.RawMessage]) Record {
	return Record{Value: r.Value, Key: r.Key, Split: int64(r.Split), Position: r.Position}
}

// Setup is called once for each instance.
func (f *recordFn[M]) Setup() error {
	m, c, err := unpack[M](f.Cargo)
	if err != nil {
		return err
	}
	return f.b.setup(f, c, m.Function, taker[json.RawMessage, json.RawMessage]{
		result: func(r *async.Record[json.RawMessage]) { f.emit(eventtime.ToBeam(r.Time), placed(r)) },
		failed: func(x *async.Failed[json.RawMessage]) {
			// The place, the class and the attempts have their own fields, so Error is
			// only the reason.
			reason := x.Err
			if r, ok := errors.AsType[*async.RecordError](reason); ok {
				reason = r.Err
			}
			f.fail(eventtime.ToBeam(x.Record.Time), FailedRecord{Record: placed(&x.Record), Class: x.Class.String(), Error: reason.Error(), Attempts: x.Attempts, At: x.At.UnixMilli()})
		},
	})
}

// StartBundle begins.
func (f *recordFn[M]) StartBundle(context.Context, func(beam.EventTime, Record), func(beam.EventTime, FailedRecord)) {
	f.b.start()
}

// ProcessElement admits a record.
func (f *recordFn[M]) ProcessElement(ctx context.Context, at beam.EventTime, r Record, emit func(beam.EventTime, Record), fail func(beam.EventTime, FailedRecord)) error {
	f.emit, f.fail = emit, fail
	return f.b.process(ctx, &async.Record[json.RawMessage]{
		Value: r.Value, Time: eventtime.FromBeam(at), Key: r.Key, Split: int(r.Split), Position: r.Position,
	})
}

// FinishBundle drains.
func (f *recordFn[M]) FinishBundle(ctx context.Context, emit func(beam.EventTime, Record), fail func(beam.EventTime, FailedRecord)) error {
	f.emit, f.fail = emit, fail
	return f.b.finish(ctx)
}

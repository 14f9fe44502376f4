package inference

import (
	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/tensor"
)

// checked is a codec that also checks each result against the sink. A result that the sink cannot
// take fails its record, and the policy for bad records applies.
type checked struct {
	tensor.Codec[Record, Record]
	check func(key string, result Record) error
}

// Bind implements tensor.Codec.
func (c checked) Bind(sig tensor.Signature) (tensor.RowCodec[async.Record[Record], Record], error) {
	rows, err := c.Codec.Bind(sig)
	return checkedRows{rows, c.check}, err
}

type checkedRows struct {
	rows  tensor.RowCodec[Record, Record]
	check func(key string, result Record) error
}

// Encode implements tensor.RowCodec.
func (c checkedRows) Encode(dst *tensor.Batch, in async.Record[Record]) error {
	return c.rows.Encode(dst, in.Value)
}

// Decode implements tensor.RowCodec.
func (c checkedRows) Decode(in async.Record[Record], src *tensor.Rows, i int) (Record, error) {
	out, err := c.rows.Decode(in.Value, src, i)
	if err == nil {
		err = c.check(in.Key, out)
	}
	return out, err
}

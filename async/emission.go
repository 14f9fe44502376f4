package async

import (
	"time"

	"github.com/tensorferry/tensorferry/internal/asyncq"
)

// emit lets entries leave, in slices that end at each watermark. It returns whether any entry left.
func (o *Operator[IN, OUT]) emit(now asyncq.Time, max int, out Emitter[OUT]) bool {
	if max <= 0 || o.queue.Pop(max) == 0 {
		return false
	}
	left := int64(0)
	for i := range o.queue.Effects {
		s := &o.slots[o.queue.Effects[i].ID.Slot]
		if s.isMark {
			o.flush(out)
			out.Watermark(s.mark)
		} else {
			o.waited.add(time.Duration(now - s.since))
			o.stayed.add(time.Duration(now - s.came))
			if s.span != nil {
				s.endSpan(time.Now())
			}
			switch s.fate {
			case dropped:
				o.stats.Dropped++
			case lettered:
				o.stats.DeadLettered++
				if len(o.out) > 0 {
					o.flush(out)
				}
				o.failures = append(o.failures, *s.failure)
			default:
				if len(o.failures) > 0 {
					o.flush(out)
				}
				for k := range s.outs.Len() {
					o.out = append(o.out, With(s.rec, s.outs.At(k)))
				}
				o.stats.Completed++
			}
		}
		left += s.bytes
		*s = slot[IN, OUT]{}
	}
	o.queue.Effects = o.queue.Effects[:0]
	o.flush(out)
	o.resultBytes -= left
	o.inbox.kept.Store(o.resultBytes)
	return true
}

func (o *Operator[IN, OUT]) flush(out Emitter[OUT]) {
	if len(o.failures) > 0 {
		o.letters(o.failures)
		clear(o.failures)
		o.failures = o.failures[:0]
	}
	if len(o.out) > 0 {
		out.Emit(o.out)
		clear(o.out)
		o.out = o.out[:0]
	}
}

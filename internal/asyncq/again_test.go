package asyncq

import "testing"

// TestManyAreCalledAgain: however many entries wait to be called again, and in whatever order they
// came to wait, the oldest is called first. A queue that walked a list for each of them would make
// this test take hours.
func TestManyAreCalledAgain(t *testing.T) {
	const n = 300_000
	q := New(Config{Capacity: n, MaxCalls: n, Order: Unordered, Timeout: 1 << 40, Hold: 1 << 40, HoldDelay: 1, MaxHoldDelay: 1})
	var calls []Effect
	for range n {
		q.Admit(0, 1, 0)
	}
	q.Start(0)
	calls = append(calls, q.Effects...)
	q.Effects = q.Effects[:0]
	if len(calls) != n {
		t.Fatalf("%d calls", len(calls))
	}
	// The youngest waits shortest.
	for i, c := range calls {
		if got := q.Complete(1, c.ID, c.Attempt, Unavailable, Time(2*n-i)); got != Waiting {
			t.Fatalf("entry %d: %v", i, got)
		}
	}
	q.Tick(3 * n)
	q.Suspend(3 * n)
	q.Resume(3 * n)
	q.Start(3 * n)
	if len(q.Effects) != n {
		t.Fatalf("%d of %d are called again", len(q.Effects), n)
	}
	for i, e := range q.Effects {
		if e.Kind != Call || e.ID != calls[i].ID {
			t.Fatalf("call %d is of %v; want the oldest, %v", i, e.ID, calls[i].ID)
		}
	}
}

// TestUnmade: a call that never began is made again in its turn. Its time stands still, and it does
// not count as a refused attempt.
func TestUnmade(t *testing.T) {
	q := New(Config{Capacity: 4, MaxCalls: 4, Timeout: 100, Hold: 10, HoldDelay: 1, MaxHoldDelay: 1})
	id := q.Admit(0, 1, 0)
	q.Start(0)
	first := q.Effects[0]
	q.Effects = q.Effects[:0]
	if got := q.Complete(40, id, first.Attempt, Unmade, 0); got != Waiting {
		t.Fatal(got)
	}
	q.Tick(1000) // far longer than its time and its hold
	if len(q.Effects) > 0 || q.Stats().Holds != 0 {
		t.Fatalf("%+v, %+v", q.Effects, q.Stats())
	}
	q.Start(1000)
	if len(q.Effects) != 1 || q.Effects[0].Kind != Call || q.Effects[0].Deadline != 1060 || q.Effects[0].Attempt == first.Attempt {
		t.Errorf("%+v", q.Effects)
	}
}

// TestHoldWhileResultsWait: results over the bound wait for one entry that the other side refuses,
// and others wait for their first call. The hold of the one entry ends all the same (A40, A78).
func TestHoldWhileResultsWait(t *testing.T) {
	for order, name := range []string{"ordered", "unordered", "keyed"} {
		t.Run(name, func(t *testing.T) {
			q := New(Config{Order: Order(order), Capacity: 9, MaxCalls: 9, MaxBytes: 20, Hold: 100, HoldDelay: 5, MaxHoldDelay: 5})
			a := q.Admit(0, 1, 7)
			if Order(order) == Unordered {
				q.AdmitMark(0)
			}
			b := q.Admit(0, 1, 7)
			q.Start(0)
			q.Complete(1, b, 1, Final, 0)
			q.Finish(b, 30)
			late := q.Admit(1, 1, 7)
			q.Complete(2, a, 1, Unavailable, 0)
			attempt, over := uint32(1), false
			for now := Time(2); now < 500 && !over; now++ {
				q.Effects = q.Effects[:0]
				q.Tick(now)
				q.Start(now)
				for _, e := range q.Effects {
					switch {
					case e.ID == late:
						t.Fatalf("%+v at %d: its results could not leave", e, now)
					case e.Kind == Call:
						attempt++
						q.Complete(now, a, attempt, Unavailable, 0)
					case e.Kind == HoldOver:
						over = true
						if e.ID != a || now < 102 || now > 110 {
							t.Errorf("%+v at %d; want the first, at about 102", e, now)
						}
					}
				}
			}
			if !over || attempt < 10 {
				t.Errorf("over: %v, after %d calls", over, attempt)
			}
		})
	}
}

package checkpoint

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"
)

// Describe writes the content of a snapshot to w, for people to read: its job and run, its
// counters, and each section with its parts and their sizes. The error is that of w.
func Describe(w io.Writer, s *Snapshot) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(cells ...any) {
		for i, c := range cells {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, c)
		}
		fmt.Fprintln(t)
	}
	row("checkpoint", s.ID)
	row("job", printable(s.Job))
	row("run", printable(s.Run))
	row("attempt", s.Attempt)
	row("created", s.Created.Format(time.RFC3339Nano))
	row("finished", yesNo(s.Finished))
	if len(s.Identity) > 0 {
		row("identity")
		for _, p := range s.Identity {
			row("  "+printable(p.Name), printable(p.Value))
		}
	}
	if len(s.Counters) > 0 {
		row("counters")
		for _, c := range s.Counters {
			row("  "+printable(c.Name), c.Value)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for i := range s.Sections {
		if err := describeSection(w, &s.Sections[i]); err != nil {
			return err
		}
	}
	return nil
}

func describeSection(w io.Writer, s *Section) error {
	var size int
	for _, p := range s.Parts {
		size += len(p.Data)
	}
	_, err := fmt.Fprintf(w, "\n%s %s: parallelism %d, %d part(s), %d bytes\n",
		printable(s.Kind), printable(s.Operator), s.Parallelism, len(s.Parts), size)
	if err != nil || len(s.Parts) == 0 {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "split\tsubtask\tbytes\t  name\n")
	for _, p := range s.Parts {
		split := "-"
		if p.Split >= 0 {
			split = fmt.Sprint(p.Split)
		}
		// The last cell has no tab behind it and so is not aligned.
		fmt.Fprintf(t, "%s\t%d\t%d\t  %s\n", split, p.Subtask, len(p.Data), printable(p.Name))
	}
	return t.Flush()
}

// printable returns s, quoted if it could upset a terminal or the table.
func printable(s string) string {
	if q := strconv.Quote(s); s == "" || q != `"`+s+`"` {
		return q
	}
	return s
}

func yesNo(v bool) string {
	if v {
		return "yes"
	}
	return "no"
}

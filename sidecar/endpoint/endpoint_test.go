package endpoint

import (
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func TestParse(t *testing.T) {
	long := "/" + strings.Repeat("x", MaxPath-1)
	for _, c := range []struct{ in, network, address, canonical, target string }{
		{"unix:///run/m.sock", "unix", "/run/m.sock", "unix:///run/m.sock", "unix:///run/m.sock"},
		{"unix:/run/m.sock", "unix", "/run/m.sock", "unix:///run/m.sock", "unix:///run/m.sock"},
		{"unix:///run//x/../m.sock", "unix", "/run/m.sock", "unix:///run/m.sock", "unix:///run/m.sock"},
		{"unix:///run/50% ?#.sock", "unix", "/run/50% ?#.sock", "unix:///run/50% ?#.sock", "unix:///run/50%25 %3F%23.sock"},
		{"unix://" + long, "unix", long, "unix://" + long, "unix://" + long},
		{"unix-abstract:model", "unix", "@model", "unix-abstract:model", "unix-abstract:model"},
		{"localhost:8001", "tcp", "localhost:8001", "localhost:8001", "dns:///localhost:8001"},
		{":8001", "tcp", ":8001", ":8001", "dns:///:8001"},
		{"10.0.0.7:0", "tcp", "10.0.0.7:0", "10.0.0.7:0", "dns:///10.0.0.7:0"},
		{"[::1]:8001", "tcp", "[::1]:8001", "[::1]:8001", "dns:///[::1]:8001"},
		{"[fe80::1%eth0]:8001", "tcp", "[fe80::1%eth0]:8001", "[fe80::1%eth0]:8001", "dns:///[fe80::1%25eth0]:8001"},
	} {
		e, err := Parse(c.in)
		if err != nil {
			t.Errorf("Parse(%q): %v", c.in, err)
			continue
		}
		if e.Network != c.network || e.Address != c.address || e.String() != c.canonical || e.GRPCTarget() != c.target {
			t.Errorf("Parse(%q) = %+v, String %q, GRPCTarget %q", c.in, e, e, e.GRPCTarget())
		}
		if again, err := Parse(e.String()); err != nil || again != e {
			t.Errorf("Parse(%q.String()) = %+v, %v", c.in, again, err)
		}
	}
}

// grpc itself must accept the target, and read it as the same address.
func TestGRPCTakesTheTarget(t *testing.T) {
	for _, s := range []string{"unix:///run/50% ?#.sock", "unix-abstract:model", "localhost:1", "[::1]:1", "[fe80::1%lo]:1"} {
		e, err := Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := grpc.NewClient(e.GRPCTarget(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		if got := conn.CanonicalTarget(); !strings.HasPrefix(got, strings.SplitAfter(e.GRPCTarget(), ":")[0]) {
			t.Errorf("%s: grpc reads the target as %q", s, got)
		}
		conn.Close()
	}
}

func TestParseRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                                    "empty",
		"/run/m.sock":                         "unix:///run/m.sock",
		"unix:":                               "no path",
		"unix://":                             "no path",
		"unix://run/m.sock":                   "absolute",
		"unix:m.sock":                         "absolute",
		"unix:///run/":                        "folder",
		"unix:///" + strings.Repeat("x", 107): "108 bytes long and the system allows 107",
		"unix:///a\nb":                        "control character",
		"unix-abstract:":                      "no name",
		"unix-abstract:/x":                    "slash",
		"unix-abstract:a%b":                   "must not contain",
		"unix-abstract:" + strings.Repeat("x", 200): "200 bytes",
		"http://host:80": "unknown scheme",
		"host":           "missing port",
		"host:http":      "the port must be a number",
		"host:70000":     "the port must be a number",
		"host:-1":        "the port must be a number",
		"::1:80":         "too many colons",
		"a b:80":         "neither a name nor an address",
		"a/b:80":         "neither a name nor an address",
	} {
		_, err := Parse(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q): error %v, want one that says %q", in, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"unix:///run/m.sock", "unix-abstract:x", "h:1", "[::1]:80", "unix:", "%:0", "[fe80::1%lo]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := Parse(s)
		if err != nil {
			return
		}
		if again, err := Parse(e.String()); err != nil || again != e {
			t.Fatalf("Parse(%q) = %+v, whose String is read as %+v, %v", s, e, again, err)
		}
	})
}

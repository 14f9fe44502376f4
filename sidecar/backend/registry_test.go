package backend

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestParseLocation(t *testing.T) {
	for in, want := range map[string]Location{
		"digits.onnx":          {Path: "digits.onnx"},
		"/models/a:b.onnx":     {Path: "/models/a:b.onnx"},
		`C:\models\x.onnx`:     {Path: `C:\models\x.onnx`},
		"mock:double":          {Scheme: "mock", Path: "double"},
		"what%3Fnow.onnx?a=1":  {Path: "what?now.onnx"},
		"mock:sum?latency=1+2": {Scheme: "mock", Path: "sum"},
	} {
		got, err := ParseLocation(in)
		if err != nil || got.Scheme != want.Scheme || got.Path != want.Path {
			t.Errorf("ParseLocation(%q) = %+v, %v", in, got, err)
		}
	}
	loc, err := ParseLocation("mock:sum?latency=1ms+2us&fault=bad%40row%3D3&fault=hang@2")
	if err != nil || loc.Options.Get("latency") != "1ms+2us" || len(loc.Options["fault"]) != 2 || loc.Options["fault"][0] != "bad@row=3" {
		t.Errorf("options %v, %v", loc.Options, err)
	}
	for _, in := range []string{"", "mock:", "?a=b", "x.onnx?a=%zz", "x.onnx?a;b"} {
		if _, err := ParseLocation(in); err == nil {
			t.Errorf("ParseLocation(%q): no error", in)
		}
	}
}

func TestRegistry(t *testing.T) {
	failing := func(name string) Loader {
		return LoaderFunc(func(context.Context, Location) (Model, error) { return nil, errors.New("loaded by " + name) })
	}
	r := Registry{Schemes: map[string]Loader{"mock": failing("mock")}, Extensions: map[string]Loader{".onnx": failing("onnx")}}
	for in, want := range map[string]string{
		"mock:x":   `model location "mock:x": loaded by mock`,
		"a.onnx":   "loaded by onnx",
		"A.ONNX":   "loaded by onnx",
		"ort:x":    `no backend for "ort:"; this program has mock:, *.onnx`,
		"a.pt":     `the extension ".pt" (a.pt); this program has mock:, *.onnx`,
		"noext":    `the extension ""`,
		"mock:?x":  "names no file",
		"dir/a.b/": `the extension`,
	} {
		if _, err := r.Load(t.Context(), in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Load(%q): %v, want %s", in, err, want)
		}
	}
	if got := (Registry{}).String(); got != "none" {
		t.Errorf("an empty registry has %q", got)
	}
}

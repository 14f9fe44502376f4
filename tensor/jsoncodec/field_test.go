package jsoncodec

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestMerge(t *testing.T) {
	fields := []Field{{"digit", json.RawMessage(`-1`)}, {`a"b`, json.RawMessage(`[1, {"x": null}]`)}}
	const added = `"digit":-1,"a\"b":[1, {"x": null}]}`
	for _, c := range []struct {
		record    string
		overwrite bool
		want      string // the result, or words of the error if it does not begin with a brace
	}{
		{`{}`, false, `{` + added},
		{" {\"n\": 1.50 } ", false, `{"n": 1.50,` + added},
		{`{"n":1}`, true, `{"n":1,` + added},
		{`{"digit":3}`, false, `already has a field "digit"`},
		{`{"digit": {"x":[1]}, "n":1}`, true, `{"digit": -1, "n":1,"a\"b":[1, {"x": null}]}`},
		{`{"\u0064igit":3,"n":1}`, true, `{"\u0064igit":-1,"n":1,"a\"b":[1, {"x": null}]}`},
		{`{"digit":3,"digit":4}`, true, `the record has field "digit" twice`},
		{`{"n":`, false, `invalid JSON at byte 5`},
		{`[1]`, true, `the record is an array`},
		{``, false, `the record is empty`},
	} {
		got, err := Merge([]byte(c.record), fields, c.overwrite)
		if !strings.HasPrefix(c.want, "{") {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v; want %s", c.record, err, c.want)
			}
			continue
		}
		if err != nil || string(got) != c.want || !json.Valid(got) {
			t.Errorf("%s\ngives %s, %v\nwant  %s", c.record, got, err, c.want)
		}
	}
	for _, c := range []struct {
		fields []Field
		want   string
	}{
		{[]Field{{"a", json.RawMessage(`1`)}, {"a", json.RawMessage(`2`)}}, `field "a" is given twice`},
		{[]Field{{"a", json.RawMessage(`.5`)}}, `the value of field "a" is not JSON: ".5"`},
		{[]Field{{"a", nil}}, `the value of field "a" is not JSON`},
		{[]Field{{"\xff", json.RawMessage(`1`)}}, `the name of field "\xff" is not UTF-8`},
	} {
		if got, err := Merge([]byte(`{}`), c.fields, false); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %s, %v; want %s", c.fields, got, err, c.want)
		}
	}
	if got, err := Merge([]byte(` {"a":1} `), nil, false); err != nil || string(got) != `{"a":1}` {
		t.Errorf("nothing added gives %s, %v", got, err)
	}
}

func TestScalar(t *testing.T) {
	for _, c := range []struct{ record, path, want string }{
		{`{"id":"x"}`, "id", "x"},
		{`{"id":""}`, "id", ""},
		{` { "a" : [1,{"id":2}] , "id" : 1.50 } `, "id", "1.50"},
		{`{"id":-1e3}`, "id", "-1e3"},
		{`{"id":true,"id":false}`, "id", "true"},
		{`{"user":{"name":"u","id":"7"}}`, "user.id", "7"},
		{`{"user":{"name":"u","id":7},"id":8}`, "user.id", "7"},
		{`{"\u0069d":"\u0041\n"}`, "id", "A\n"},
		{`{"id":"\ud800"}`, "id", `\ud800`},
		{`{"id":"é"}`, "id", "é"},
		{`{"id":null}`, "id", "none"},
		{`{"id":[1]}`, "id", "none"},
		{`{"id":{"id":1}}`, "id", "none"},
		{`{"x":1}`, "id", "none"},
		{`{}`, "id", "none"},
		{`{"user":[1]}`, "user.id", "none"},
		{`{"user":7}`, "user.id", "none"},
		{``, "id", "none"},
		{`[{"id":1}]`, "id", "none"},
		{`{"id"`, "id", "none"},
		{`{"id":`, "id", "none"},
		{`{"id":"x`, "id", "none"},
		{`{"id":tru}`, "id", "none"},
		{`{"a":[,"id":1}`, "id", "none"},
	} {
		got, ok := Scalar([]byte(c.record), strings.Split(c.path, "."))
		if (c.want != "none") != ok || ok && got != c.want {
			t.Errorf("%s of %s is %q, %v; want %s", c.path, c.record, got, ok, c.want)
		}
	}
}

// FuzzFields: no record causes a panic, and the field that was added to a JSON object is found
// again.
func FuzzFields(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s), "x")
	}
	f.Fuzz(func(t *testing.T, record []byte, text string) {
		_, _ = Scalar(record, []string{"a", "x"})
		name := "\x00key"
		value, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		merged, err := Merge(record, []Field{{name, value}}, false)
		if err != nil {
			var object map[string]json.RawMessage
			if json.Unmarshal(record, &object) == nil && object != nil && object[name] == nil {
				t.Fatalf("%q was refused: %v", record, err)
			}
			return
		}
		var want string
		if err := json.Unmarshal(value, &want); err != nil {
			t.Fatal(err)
		}
		if got, ok := Scalar(merged, []string{name}); !ok || got != want {
			t.Fatalf("%q gives %q, in which %q is %q, %v; want %q", record, merged, name, got, ok, want)
		}
	})
}

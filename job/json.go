package job

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// json reads a value of any kind and returns it as JSON. Numbers keep the file's digits where JSON
// has such numbers, and mappings the file's order.
func (d *decoder) json(v value) json.RawMessage {
	switch n := v.node.(type) {
	case *ast.NullNode:
		return json.RawMessage("null")
	case *ast.BoolNode:
		return strconv.AppendBool(nil, n.Value)
	case *ast.IntegerNode:
		return d.number(v, n.Value)
	case *ast.FloatNode:
		return d.number(v, n.Value)
	case *ast.StringNode:
		if t := n.GetToken(); t != nil && t.Type == token.StringType && isNumber(n.Value) {
			return json.RawMessage(n.Value) // such as 1e3, which the parser reads as a text
		}
		if i, ok := whole(n); ok {
			return strconv.AppendInt(nil, i, 10) // such as 08, which it reads as a text too
		}
		return d.jsonText(v, n.Value)
	case *ast.LiteralNode:
		return d.jsonText(v, n.Value.Value)
	case *ast.SequenceNode:
		list := []byte{'['}
		for i, e := range elements(v) {
			if i > 0 {
				list = append(list, ',')
			}
			list = append(list, d.json(e)...)
		}
		return append(list, ']')
	case *ast.MappingNode, *ast.MappingValueNode:
		values, _ := d.mapping(v, func(string, Position) bool { return true })
		names := sortedKeys(values)
		slices.SortFunc(names, func(a, b string) int { return comparePositions(values[a].at, values[b].at) })
		object := []byte{'{'}
		for i, name := range names {
			if i > 0 {
				object = append(object, ',')
			}
			object = append(object, d.jsonText(values[name], name)...)
			object = append(object, ':')
			object = append(object, d.json(values[name])...)
		}
		return append(object, '}')
	}
	d.wrong(v, "a value that JSON can express")
	return nil
}

// isNumber reports whether a plain text is a JSON number.
func isNumber(text string) bool {
	return text != "" && (text[0] == '-' || text[0]-'0' <= 9) && json.Valid([]byte(text))
}

// number writes a number as the file does, if that is valid JSON, and otherwise as Go does.
func (d *decoder) number(v value, n any) json.RawMessage {
	if text := strings.TrimSpace(v.node.GetToken().Value); json.Valid([]byte(text)) {
		return json.RawMessage(text)
	}
	if i, ok := whole(v.node); ok {
		return strconv.AppendInt(nil, i, 10)
	}
	if digits, ok := plain(v.node); ok && isOctal(digits) {
		d.wrong(v, "a number in decimal")
		return nil
	}
	if f, ok := n.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
		d.wrong(v, "a number that JSON can express")
		return nil
	}
	text, err := json.Marshal(n)
	if err != nil {
		d.wrong(v, "a number that JSON can express")
	}
	return text
}

func (d *decoder) jsonText(v value, text string) json.RawMessage {
	if !utf8.ValidString(text) {
		d.fault(v.at, "%s: the text is not UTF-8; want one that JSON can express", v.path)
		return nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(text); err != nil {
		d.wrong(v, "a text that JSON can express")
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

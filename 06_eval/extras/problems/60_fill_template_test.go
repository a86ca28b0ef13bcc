package problems

import "testing"

func TestFillTemplate(t *testing.T) {
	values := map[string]string{"who": "Ann", "x": "${who}", "y": "}", "": "nobody"}
	for text, want := range map[string]string{
		"Hi ${who}!":           "Hi Ann!",
		"":                     "",
		"plain":                "plain",
		"${who}${who} ${who}":  "AnnAnn Ann",
		"a ${none} b":          "a  b",
		"${x} and ${y}":        "${who} and }",
		"cost: $5 {who} }{":    "cost: $5 {who} }{",
		"${who} is ${who":      "Ann is ${who",
		"} ${":                 "} ${",
		"a } b ${who} c ${":    "a } b Ann c ${",
		"Dear ${}, ${who}. $$": "Dear nobody, Ann. $$",
	} {
		if got := FillTemplate(text, values); got != want {
			t.Errorf("FillTemplate(%q) is %q, want %q", text, got, want)
		}
	}
}

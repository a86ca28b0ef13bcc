package problems

import "testing"

func TestValidEmail(t *testing.T) {
	for _, text := range []string{"ann@example.org", "a@b.c", "a.b@c.d.e", "x+y@mail.example.com"} {
		if !ValidEmail(text) {
			t.Errorf("%q is refused", text)
		}
	}
	for _, text := range []string{
		"", "@", "ann", "ann@", "@b.c", "ann@example", "a@@b.c", "a@b@c.d", "a@b.c@d", "a b@c.d", "a@.",
		"ann@.org", "ann@.b.org", "ann@org.", "ann@b.org.", "a@b c.d", "a.b", "ann.lee@org",
	} {
		if ValidEmail(text) {
			t.Errorf("%q is accepted", text)
		}
	}
}

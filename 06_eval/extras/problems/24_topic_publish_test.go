package problems

import "testing"

func TestTopicPublish(t *testing.T) {
	topic, heard := &Topic{}, ""
	topic.Publish("nobody listens")
	topic.Subscribe(func(message string) { heard += "a:" + message + " " })
	topic.Publish("one")
	topic.Subscribe(func(message string) { heard += "b:" + message + " " })
	topic.Publish("two")
	if want := "a:one a:two b:two "; heard != want {
		t.Errorf("heard %q, want %q", heard, want)
	}
}

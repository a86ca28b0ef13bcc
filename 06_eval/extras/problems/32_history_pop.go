package problems

// History is a stack of visited pages, the newest last.
type History struct {
	pages []string
}

// Push adds a page.
func (h *History) Push(page string) {
	h.pages = append(h.pages, page)
}

// Pop removes the newest page and returns it and true. If there is none, it returns "" and false.
func (h *History) Pop() (string, bool) {
	if len(h.pages) == 0 {
		return "", false
	}
	page := h.pages[len(h.pages)-1]
	h.pages = h.pages[:len(h.pages)-1]
	return page, true
}

package problems

// Page is a page of a book.
type Page struct {
	author string
	title  string
}

// SetAuthor sets the author of the page.
func (p *Page) SetAuthor(author string) {
	p.author = author
}

// SetTitle sets the title of the page.
func (p *Page) SetTitle(title string) {
	p.title = title
}

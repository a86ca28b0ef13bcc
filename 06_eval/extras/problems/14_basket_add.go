package problems

// Basket is a basket of items.
type Basket struct {
	items []string
}

// Items returns the items in the basket.
func (b *Basket) Items() []string {
	return b.items
}

// Add appends item to the items of the basket.
func (b *Basket) Add(item string) {
	b.items = append(b.items, item)
}

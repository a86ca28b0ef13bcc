package good

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Calculate works out a formula of numbers, + - * / and parentheses, as at school: products
// first, then sums, both from left to right.
// >>> Calculate("2 * (3 + 4) - 10 / 4")
// 11.5 <nil>
// >>> Calculate("2 * (3 + 4")
// 0 at 10: ) expected
func Calculate(formula string) (float64, error) {
	p := &calculator{text: formula}
	value, err := p.terms(1)
	if err == nil && p.peek() != 0 {
		err = errors.New("operator expected")
	}
	if err != nil {
		return 0, fmt.Errorf("at %d: %w", p.pos, err)
	}
	return value, nil
}

type calculator struct {
	text string
	pos  int
}

// peek skips spaces and returns the byte that comes next, 0 at the end.
func (p *calculator) peek() byte {
	for p.pos < len(p.text) && p.text[p.pos] == ' ' {
		p.pos++
	}
	if p.pos == len(p.text) {
		return 0
	}
	return p.text[p.pos]
}

var binding = map[byte]int{'+': 1, '-': 1, '*': 2, '/': 2}

// terms reads operands and the operators between them, as long as those bind at least so tightly.
func (p *calculator) terms(tightly int) (float64, error) {
	left, err := p.operand()
	for err == nil {
		operator := p.peek()
		if binding[operator] < tightly {
			break
		}
		p.pos++
		var right float64
		right, err = p.terms(binding[operator] + 1)
		switch operator {
		case '+':
			left += right
		case '-':
			left -= right
		case '*':
			left *= right
		case '/':
			left /= right // by zero: infinite, as IEEE 754 has it
		}
	}
	return left, err
}

// operand reads a number, or something in parentheses, or either behind a minus.
func (p *calculator) operand() (float64, error) {
	switch p.peek() {
	case '-':
		p.pos++
		value, err := p.operand()
		return -value, err
	case '(':
		p.pos++
		value, err := p.terms(1)
		if err == nil && p.peek() != ')' {
			err = errors.New(") expected")
		}
		if err == nil {
			p.pos++
		}
		return value, err
	}
	rest := p.text[p.pos:]
	number := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789."))]
	value, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, errors.New("number expected")
	}
	p.pos += len(number)
	return value, nil
}

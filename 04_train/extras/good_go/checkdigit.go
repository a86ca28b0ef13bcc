package good

// LuhnValid reports whether a card number has the right check digit. From the right, every second
// digit counts twice, where 10 or more is less 9; the sum must be a multiple of 10. Spaces are
// passed over; with any other sign that is no digit, or fewer than two digits, it is invalid.
// >>> LuhnValid("3702 2148 8105 3625")
// true
// >>> LuhnValid("3702 2148 8105 3652")
// false
func LuhnValid(number string) bool {
	sum, digits := 0, 0
	for i := len(number) - 1; i >= 0; i-- {
		c := number[i]
		if c == ' ' {
			continue
		}
		if c < '0' || c > '9' {
			return false
		}
		d := int(c - '0')
		if digits%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
		digits++
	}
	return digits > 1 && sum%10 == 0
}

// ISBNValid reports whether an ISBN of 13 digits has the right check digit: the digits count once
// and three times in turn, and the sum must be a multiple of 10. Hyphens are passed over.
// >>> ISBNValid("978-0-13-419044-0")
// true
func ISBNValid(isbn string) bool {
	sum, digits := 0, 0
	for _, r := range isbn {
		switch {
		case r == '-':
			continue
		case r < '0' || r > '9':
			return false
		case digits%2 == 0:
			sum += int(r - '0')
		default:
			sum += 3 * int(r-'0')
		}
		digits++
	}
	return digits == 13 && sum%10 == 0
}

package problems

// Member is somebody who has roles.
type Member struct {
	Name  string
	Roles []string
}

// HasRole returns true if role is one of the roles of the member.
func (m Member) HasRole(role string) bool {
	for _, r := range m.Roles {
		if r == role {
			return true
		}
	}
	return false
}

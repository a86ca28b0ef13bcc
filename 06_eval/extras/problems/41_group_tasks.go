package problems

// Task is something that its owner has to do.
type Task struct {
	Owner string
	Title string
}

// GroupTasks returns the titles of the tasks of each owner, in the order of the tasks.
func GroupTasks(tasks []Task) map[string][]string {
	groups := make(map[string][]string)
	for _, task := range tasks {
		groups[task.Owner] = append(groups[task.Owner], task.Title)
	}
	return groups
}

package problems

// Job is a piece of work.
type Job struct {
	id    int
	name  string
	owner string
}

// ID returns the id of the job.
func (j *Job) ID() int {
	return j.id
}

// Name returns the name of the job.
func (j *Job) Name() string {
	return j.name
}

// Owner returns the owner of the job.
func (j *Job) Owner() string {
	return j.owner
}

// Package problems holds 60 small tasks in Go, from easy to hard, by which a model of code is
// graded: its answers are compiled and run. They are everyday code: accessors, methods that an
// interface asks for, collections, texts, errors.
//
// Each problem is two files. NN_name.go is the prompt and a solution: the prompt goes up to the
// last line that begins with "func ", which ends in an opening brace, and the solution is what
// follows. A model continues the prompt; what it writes after the brace that closes the function
// is cut off. NN_name_test.go has the one test, which the continued prompt must compile with and
// pass. All files are one package, so that "go test" in this folder checks the solutions.
//
// The first 20 have solutions of one line, after a type and often a method that shows how it is
// done: they are meant to be within reach of a model of a few million parameters. The last ones
// take about ten lines, and an idea. No model should train on these files.
package problems

// Package good is a small set of Go to learn from: a model that has read much code, most of it
// average, is shown at the end of its training what good code looks like.
//
// Each file has one idea, needs the standard library alone, and no other file of this package.
// They share habits: a comment begins with the name it explains and says what is promised, not
// how it is done; a function returns early and keeps its main path to the left; an error says
// what was wrong and wraps its cause; a zero value is useful; interfaces are small, and taken
// rather than returned; who starts a goroutine knows when it ends.
//
// Some comments show an example, with what fmt.Println prints of it on the line below:
//
//	// Clamp returns the number from low to high that is nearest to x.
//	// >>> Clamp(12, 0, 10)
//	// 10
package good

//go:build race

package main

// raceEnabled has the programs under test look for races when the test does.
const raceEnabled = true

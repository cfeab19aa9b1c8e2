// Package modules holds the core modules of an app, ready to be required: the
// wiring between package app and the packages that do the work.
package modules

// Package e2e holds the tests that need a browser: make e2e. They drive Chromium
// over the pages of crumb serve --login, as a person with a keyboard does, and have
// axe-core look at each page for what WCAG 2.2 asks at level AA.
//
// It is a module of its own, so that its dependencies reach no user. axe-core
// 4.14.1 (MPL-2.0) is kept in testdata, as published, so that the tests need no
// network and a new version of it never fails a change of ours.
package e2e

//go:build !unix

package servers

import (
	"context"
	"errors"
)

// Elsewhere servers are named by CRUMB_TEST_POSTGRES and so on; see compose.yaml.

func serverUser(string) string                               { return "" }
func giveTo(string, string) error                            { return errors.ErrUnsupported }
func reachable(string, string) (string, error)               { return "", errors.ErrUnsupported }
func (n *Node) start() error                                 { return errors.ErrUnsupported }
func (n *Node) run(context.Context, string, ...string) error { return errors.ErrUnsupported }
func stopSignal(string) int                                  { return 0 }
func (n *Node) signal(int) error                             { return errors.ErrUnsupported }
func alive(int) bool                                         { return false }
func kill(int) error                                         { return errors.ErrUnsupported }
func commandHolds(int, string) bool                          { return false }
func children(int) []int                                     { return nil }
func lock(string) (func(), error)                            { return nil, errors.ErrUnsupported }

// Pause stops the node's processes where they are, as a machine that hangs would;
// Resume lets them go on.
func (n *Node) Pause() error { return errors.ErrUnsupported }

// Resume ends a Pause.
func (n *Node) Resume() error { return errors.ErrUnsupported }

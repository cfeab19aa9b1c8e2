package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// A bar shows how far a part is, on a terminal and nowhere else.
type bar struct {
	name  string
	began time.Time
	on    bool

	mu   sync.Mutex // guards last
	last time.Time
}

func newBar(name string) *bar {
	return &bar{name: name, began: time.Now(), on: term.IsTerminal(int(os.Stderr.Fd()))}
}

// at shows that done of total are through, at most five times a second.
func (b *bar) at(done, total int, what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.on || total <= 0 || time.Since(b.last) < 200*time.Millisecond {
		return
	}
	b.last = time.Now()
	const width = 30
	full := min(width, done*width/total)
	fmt.Fprintf(os.Stderr, "\r\033[K%-10s [%s%s] %d/%d %s, %v", b.name, strings.Repeat("=", full), strings.Repeat(" ", width-full),
		done, total, what, time.Since(b.began).Round(time.Second))
}

func (b *bar) clear() {
	if b.on {
		fmt.Fprint(os.Stderr, "\r\033[K")
	}
}

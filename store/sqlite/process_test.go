package sqlite

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crumb-go/crumb/session"
)

// The tests of several processes run this binary again, as one of these.
var children = map[string]func(s *Store, args []string) error{
	"create": childCreate,
	"count":  childCount,
	"load":   childLoad,
	"open":   func(*Store, []string) error { return nil },
}

func TestMain(m *testing.M) {
	if role := os.Getenv("CRUMB_SQLITE_CHILD"); role != "" {
		if err := child(role, os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child begins when its standard input ends, so that several begin at once.
func child(role, path string, args []string) error {
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := Open(ctx, path, Config{})
	if err != nil {
		return err
	}
	if err := children[role](s, args); err != nil {
		return err
	}
	return s.Close()
}

type process struct {
	*osexec.Cmd
	start io.Closer
	out   *bufio.Reader
	errs  *strings.Builder
}

func newChild(t testing.TB, bin, role, path string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: osexec.Command(bin, append([]string{path}, args...)...), errs: new(strings.Builder)}
	p.Env = append(os.Environ(), "CRUMB_SQLITE_CHILD="+role)
	p.Stderr = p.errs
	in, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.start, p.out = in, bufio.NewReader(out)
	return p
}

func startChild(t testing.TB, role, path string, args ...string) *process {
	t.Helper()
	p := newChild(t, os.Args[0], role, path, args...)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Process.Kill()
		p.Wait()
	})
	return p
}

// finish lets the processes begin at once and waits until they ended well.
func finish(t testing.TB, ps ...*process) (outs []string) {
	t.Helper()
	for _, p := range ps {
		p.start.Close()
	}
	for _, p := range ps {
		out, err := io.ReadAll(p.out)
		if err != nil {
			t.Error(err)
		}
		outs = append(outs, string(out))
		if err := p.Wait(); err != nil {
			t.Errorf("a child ended with %v: %s", err, p.errs)
		}
	}
	return outs
}

func childCreate(s *Store, args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	return s.Create(context.Background(), record(n))
}

func TestProcessesThatCreateOneFileAtOnceAllSucceed(t *testing.T) {
	for range 3 {
		path := filepath.Join(t.TempDir(), "crumb.db")
		var ps []*process
		for i := range 4 {
			ps = append(ps, startChild(t, "create", path, strconv.Itoa(i)))
		}
		finish(t, ps...)
		s := openAt(t, path)
		for i := range 4 {
			if _, err := s.Load(t.Context(), testID(i)); err != nil {
				t.Errorf("what process %d created: %v", i, err)
			}
		}
	}
}

// childCount has clients add to a counter each, on one session or one of its own.
func childCount(s *Store, args []string) error {
	clients, _ := strconv.Atoi(args[0])
	times, _ := strconv.Atoi(args[1])
	sessions, _ := strconv.Atoi(args[2])
	took := make([][]time.Duration, clients)
	errs := make(chan error, clients)
	begin := time.Now()
	for i := range clients {
		go func() {
			base := record(i % sessions)
			for range times {
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				start := time.Now()
				_, err := s.Update(ctx, base, add(0))
				cancel()
				if err != nil {
					errs <- err
					return
				}
				took[i] = append(took[i], time.Since(start))
			}
			errs <- nil
		}()
	}
	for range clients {
		if err := <-errs; err != nil {
			return err
		}
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	fmt.Printf("%.0f updates/s, p50 %v, p99 %v, max %v\n", float64(len(all))/time.Since(begin).Seconds(),
		all[len(all)/2], all[len(all)*99/100], all[len(all)-1])
	return nil
}

func TestTwoProcessesAddToOneCounterExactly(t *testing.T) {
	for _, sessions := range []int{1, 50} {
		path := filepath.Join(t.TempDir(), "crumb.db")
		s := openAt(t, path)
		for i := range sessions {
			if err := s.Create(t.Context(), record(i)); err != nil {
				t.Fatal(err)
			}
		}
		const clients, times = 100, 20
		args := []string{strconv.Itoa(clients), strconv.Itoa(times), strconv.Itoa(sessions)}
		for _, out := range finish(t, startChild(t, "count", path, args...), startChild(t, "count", path, args...)) {
			t.Logf("%d sessions: %s", sessions, strings.TrimSpace(out))
		}
		sum := 0
		for i := range sessions {
			rec, err := s.Load(t.Context(), testID(i))
			if err != nil {
				t.Fatal(err)
			}
			n, err := strconv.Atoi(string(rec.Values.Get("bench.v0")))
			if err != nil {
				t.Fatal(err)
			}
			sum += n - 1
		}
		if sum != 2*clients*times {
			t.Errorf("%d sessions hold %d, want %d", sessions, sum, 2*clients*times)
		}
	}
}

// childLoad changes sessions for ever and says what was acknowledged: "create ID",
// "count ID N", "end ID", "delete ID", each after the answer.
func childLoad(s *Store, args []string) error {
	round, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	const clients = 16
	errs := make(chan error)
	for c := range clients {
		go func() {
			for i := 0; ; i++ {
				rec := record(round*1000 + c)
				rec.ID = session.ID(fmt.Sprintf("%04d%04d%08d", round, c, i))
				if err := oneLife(s, rec, i, say); err != nil {
					errs <- err
				}
			}
		}()
	}
	return <-errs
}

func oneLife(s *Store, rec *session.Record, i int, say func(string, ...any)) error {
	ctx := context.Background()
	if err := s.Create(ctx, rec); err != nil {
		return err
	}
	say("create %s", rec.ID)
	for n := range 1 + i%7 {
		if _, err := s.Update(ctx, rec, add(0)); err != nil {
			return err
		}
		say("count %s %d", rec.ID, n+2)
	}
	switch i % 4 {
	case 0:
		if _, err := s.Update(ctx, rec, &session.Change{Now: now, End: true}); err != nil {
			return err
		}
		say("end %s", rec.ID)
	case 1:
		if err := s.Delete(ctx, rec.ID); err != nil {
			return err
		}
		say("delete %s", rec.ID)
	}
	return nil
}

// CRUMB_SOAK_KILLS sets another number of rounds.
func TestWhatWasAcknowledgedSurvivesKill9(t *testing.T) {
	rounds := 20
	if n, err := strconv.Atoi(os.Getenv("CRUMB_SOAK_KILLS")); err == nil {
		rounds = n
	}
	path := filepath.Join(t.TempDir(), "crumb.db")
	acknowledged := 0
	for round := range rounds {
		p := startChild(t, "load", path, strconv.Itoa(round))
		p.start.Close()
		said := make(map[session.ID]string)
		for left := 1 + rand.IntN(1500); ; left-- {
			line, err := p.out.ReadString('\n')
			if err != nil {
				break // at the end of what it said, or in the middle of a line
			}
			acknowledged++
			what, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			id, n, _ := strings.Cut(rest, " ")
			said[session.ID(id)] = what + n
			if left == 0 {
				p.Process.Kill()
			}
		}
		if p.Wait(); p.errs.Len() > 0 {
			t.Fatalf("round %d: %s", round, p.errs)
		}
		checkSaid(t, path, said)
	}
	t.Logf("%d rounds, %d acknowledged changes", rounds, acknowledged)
}

func checkSaid(t *testing.T, path string, said map[session.ID]string) {
	t.Helper()
	s, err := Open(t.Context(), path, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for id, last := range said {
		rec, err := s.Load(t.Context(), id)
		n, isCount := strings.CutPrefix(last, "count")
		switch {
		case last == "delete" && err == nil:
			t.Errorf("%s was deleted and is back", id)
		case last == "end" && (err != nil || !rec.Ended()):
			t.Errorf("%s was ended and is %+v, %v", id, rec, err)
		case last == "create" && err != nil:
			t.Errorf("%s was created: %v", id, err)
		case isCount && err == session.ErrNotFound:
			// The delete that follows may have been on its way.
		case isCount && err != nil:
			t.Errorf("%s was counted: %v", id, err)
		case isCount && !rec.Ended():
			want, _ := strconv.Atoi(n)
			if got, _ := strconv.Atoi(string(rec.Values.Get("bench.v0"))); got < want {
				t.Errorf("%s was counted to %d and holds %d", id, want, got)
			}
		}
	}
	r, err := s.readers.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.readers.put(r)
	verdict := ""
	if err := query(r.conn, "PRAGMA quick_check", func(st *stmt) { verdict += st.ColumnText(0) }); err != nil || verdict != "ok" {
		t.Errorf("quick_check: %s, %v", verdict, err)
	}
}

// BenchmarkTwoProcesses reports what each of two processes on one file reaches.
func BenchmarkTwoProcesses(b *testing.B) {
	for _, sessions := range []int{1, 1000} {
		b.Run(fmt.Sprintf("sessions=%d", sessions), func(b *testing.B) {
			for b.Loop() {
				path := filepath.Join(b.TempDir(), "crumb.db")
				fill(b, openAt(b, path), sessions)
				args := []string{"32", "2000", strconv.Itoa(sessions)}
				outs := finish(b, startChild(b, "count", path, args...), startChild(b, "count", path, args...))
				b.Logf("two: %s", strings.Join(outs, "     "))
				b.Logf("one: %s", strings.Join(finish(b, startChild(b, "count", path, args...)), ""))
			}
		})
	}
}

package app_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/crumb-go/crumb/app"
)

// child names what this test binary is to be instead of a test.
const child = "APP_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(child) == "" {
		os.Exit(m.Run())
	}
	app.Main(&app.Module{Name: "slow", Setup: func(e *app.Env) error {
		e.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "begun, ")
			http.NewResponseController(w).Flush()
			io.Copy(io.Discard, os.Stdin) // until the test closes it
			io.WriteString(w, "whole")
		})
		e.OnStop(func(context.Context) error {
			slog.Info("of a module that asks for no logger")
			fmt.Println("stopped")
			return nil
		})
		return nil
	}})
}

// A process is an app.Main of its own.
type process struct {
	*exec.Cmd
	stdin  io.Closer
	stdout io.Reader
	stderr *bufio.Scanner
}

func startMain(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.CommandContext(t.Context(), os.Args[0], args...)}
	p.Dir = t.TempDir()
	p.Env = append(os.Environ(), child+"=1")
	stdin, err1 := p.StdinPipe()
	stdout, err2 := p.StdoutPipe()
	stderr, err3 := p.StderrPipe()
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			t.Fatal(err)
		}
	}
	p.stdin, p.stdout, p.stderr = stdin, stdout, bufio.NewScanner(stderr)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// until reads stderr to the line that holds text and returns what follows it.
func (p *process) until(t *testing.T, text string) string {
	t.Helper()
	for p.stderr.Scan() {
		if _, rest, ok := strings.Cut(p.stderr.Text(), text); ok {
			return rest
		}
	}
	t.Fatalf("stderr never said %q", text)
	return ""
}

// request begins a request and returns once the handler has it.
func (p *process) request(t *testing.T) *http.Response {
	t.Helper()
	resp, err := http.Get(p.until(t, "listening on "))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestMainFunction(t *testing.T) {
	for _, signal := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		t.Run(fmt.Sprintf("%v drains the request under way, stops the modules and exits with 0", signal), func(t *testing.T) {
			p := startMain(t, "--addr=127.0.0.1:0")
			resp := p.request(t)
			p.Process.Signal(signal)
			p.until(t, "crumb: stopping")
			p.stdin.Close()
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "begun, whole" {
				t.Errorf("the answer is %q, %v", b, err)
			}
			out, _ := io.ReadAll(p.stdout)
			if string(out) != "stopped\n" {
				t.Errorf("stdout is %q", out)
			}
			if err := p.Wait(); err != nil {
				t.Errorf("exit: %v", err)
			}
		})
	}

	t.Run("logs are one JSON object a line if the setting says so", func(t *testing.T) {
		p := startMain(t, "--addr=127.0.0.1:0", "--log-format=json")
		p.until(t, "listening on ")
		p.Process.Signal(os.Interrupt)
		said := ""
		for more := true; more; more = p.stderr.Scan() {
			var line struct {
				Time       time.Time
				Level, Msg string
			}
			if err := json.Unmarshal(p.stderr.Bytes(), &line); err != nil || line.Time.IsZero() || line.Level != "INFO" {
				t.Errorf("%v: %s", err, p.stderr.Bytes())
			}
			said += line.Msg + "\n"
		}
		p.Wait()
		if want := "crumb: stopping, waiting for requests\nof a module that asks for no logger\n"; !strings.HasSuffix(said, want) {
			t.Errorf("it logged\n%swhich does not end with\n%s", said, want)
		}
	})

	t.Run("a second signal exits at once, with 1", func(t *testing.T) {
		p := startMain(t, "--addr=127.0.0.1:0")
		p.request(t)
		p.Process.Signal(syscall.SIGTERM)
		p.until(t, "crumb: stopping")
		p.Process.Signal(syscall.SIGTERM)
		out, _ := io.ReadAll(p.stdout)
		p.Wait()
		if code := p.ProcessState.ExitCode(); code != 1 || len(out) > 0 {
			t.Errorf("exit code %d, stdout %q", code, out)
		}
	})

	t.Run("a wrong setting in crumb.toml exits with 2, in two lines, before anything opens", func(t *testing.T) {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Dir = t.TempDir()
		cmd.Env = append(os.Environ(), child+"=1")
		if err := os.WriteFile(cmd.Dir+"/crumb.toml", []byte("[server]\nadr = ':80'\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, _ := cmd.CombinedOutput()
		want := "error: crumb.toml:2: server.adr: there is no such setting\nhint: did you mean addr?\n"
		if code := cmd.ProcessState.ExitCode(); code != 2 || string(out) != want {
			t.Errorf("exit code %d, got\n%swant\n%s", code, out, want)
		}
	})

	t.Run("help exits with 0", func(t *testing.T) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "--help")
		cmd.Env = append(os.Environ(), child+"=1")
		out, err := cmd.Output()
		if err != nil || !strings.HasPrefix(string(out), "Usage: ") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

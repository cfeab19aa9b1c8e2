package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/crumb-go/crumb/app"
	"github.com/crumb-go/crumb/internal/ops"
	"github.com/crumb-go/crumb/modules"
)

func tailCommand() *cobra.Command {
	var asJSON bool
	var addr string
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Show what happens to sessions, as it happens",
		Long: "Show what happens to sessions, as it happens: created, signed in, renewed, ended, and what was refused.\n" +
			"It reads from a server that runs with ops_addr, its address for operators, and goes on until Ctrl-C.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if addr == "" {
				a, err := settings(cmd, modules.Session)
				if err != nil {
					return err
				}
				addr = a.Server().OpsAddr
			}
			return tail(cmd.Context(), cmd.OutOrStdout(), addr, asJSON)
		},
	}
	cmd.Flags().StringVar(&addr, "ops-addr", "", "address for operators of the server (default from the settings)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return cmd
}

const startWithOps = "start the server with --ops-addr 127.0.0.1:9090, or [server] ops_addr in the settings file"

func tail(ctx context.Context, w io.Writer, addr string, asJSON bool) error {
	if addr == "" {
		return app.WithHint(errors.New("there is no address for operators to ask"), startWithOps)
	}
	target, err := reachable(addr)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+target+"/events", nil)
	if err != nil {
		return app.WithHint(fmt.Errorf("%q is no address", addr), "write host and port, like 127.0.0.1:9090")
	}
	// Straight to the server: what it says is no proxy's business.
	resp, err := (&http.Client{Transport: &http.Transport{}}).Do(req)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok {
			err = op
		}
		return app.WithHint(fmt.Errorf("no server answers operators at %s: %w", target, err), startWithOps)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/x-ndjson") {
		return app.WithHint(fmt.Errorf("%s does not tell events: it answers /events with %s", target, resp.Status),
			"ask the address that the server calls the one for operators")
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e ops.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("%s said what is no event: %w", target, err)
		}
		if err := printEvent(w, e, asJSON); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return app.WithHint(errors.New("the server ended the stream"), "it stopped, or the connection broke")
}

// reachable returns what to dial for a server that listens on addr.
func reachable(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	switch {
	case err != nil:
		return "", app.WithHint(fmt.Errorf("%q is no address", addr), "write host and port, like 127.0.0.1:9090")
	case port == "0":
		return "", app.WithHint(fmt.Errorf("ops_addr is %s, so the server chose a port by itself", addr),
			"name it with --ops-addr; the server logs which one it is")
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip.Is6() {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port), nil
}

func printEvent(w io.Writer, e ops.Event, asJSON bool) error {
	if asJSON {
		text, err := marshal(e, "")
		if err == nil {
			_, err = w.Write(append(text, '\n'))
		}
		return err
	}
	if e.Kind == "lost" {
		_, err := fmt.Fprintf(w, "%s  %d events are not shown: this reader was too slow\n", e.Time.Local().Format("15:04:05.000"), e.Lost)
		return err
	}
	parts := []string{e.Time.Local().Format("15:04:05.000"), fmt.Sprintf("%-8s", plain(e.Kind)), fmt.Sprintf("%-16s", plain(string(e.ID)))}
	for _, p := range []struct{ name, value string }{{"user", e.User}, {"reason", e.Reason}, {"address", e.Addr}, {"agent", cut(e.Agent, 60)}} {
		if p.value != "" {
			parts = append(parts, p.name+"="+plain(p.value))
		}
	}
	_, err := fmt.Fprintln(w, strings.Join(parts, "  "))
	return err
}

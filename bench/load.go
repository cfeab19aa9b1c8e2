package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A client is one keep-alive connection that knows just enough HTTP to be cheap:
// it shares the machine with the server that is measured.
type client struct {
	conn net.Conn
	buf  []byte
}

func dial(addr string) (*client, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &client{conn: conn, buf: make([]byte, 8<<10)}, nil
}

func (c *client) close() { c.conn.Close() }

// An answer is what came back; its parts hold until the next request.
type answered struct {
	ok     bool // status 200
	header []byte
	body   []byte
}

var (
	headerEnd     = []byte("\r\n\r\n")
	statusOK      = []byte("HTTP/1.1 200 ")
	contentLength = []byte("\r\nContent-Length: ")
	setCookie     = []byte("\r\nSet-Cookie: ")
)

// do sends a whole request and reads the whole answer.
func (c *client) do(request []byte) (answered, error) {
	if _, err := c.conn.Write(request); err != nil {
		return answered{}, err
	}
	for n := 0; ; {
		got, err := c.conn.Read(c.buf[n:])
		if err != nil {
			return answered{}, err
		}
		n += got
		a, whole, err := parse(c.buf[:n])
		if err != nil || whole {
			return a, err
		}
		if n == len(c.buf) {
			return answered{}, errors.New("the answer is longer than 8 KiB")
		}
	}
}

// parse reports whether text is a whole answer, which has to have a length.
func parse(text []byte) (a answered, whole bool, err error) {
	end := bytes.Index(text, headerEnd)
	if end < 0 {
		return a, false, nil
	}
	a.header, a.body = text[:end+2], text[end+len(headerEnd):]
	a.ok = bytes.HasPrefix(text, statusOK)
	at := bytes.Index(a.header, contentLength)
	if at < 0 {
		return a, false, errors.New("the answer has no Content-Length")
	}
	length := 0
	for _, c := range a.header[at+len(contentLength):] {
		if c < '0' || c > '9' {
			break
		}
		length = length*10 + int(c-'0')
	}
	if len(a.body) > length {
		return a, false, errors.New("more came than one answer")
	}
	return a, len(a.body) == length, nil
}

// cookie returns the cookie that the answer sets, or "".
func (a *answered) cookie() string {
	at := bytes.Index(a.header, setCookie)
	if at < 0 {
		return ""
	}
	pair, _, _ := bytes.Cut(a.header[at+len(setCookie):], []byte("\r\n"))
	pair, _, _ = bytes.Cut(pair, []byte(";"))
	return string(pair)
}

// get returns the bytes of a request.
func get(path, cookie string) []byte {
	text := "GET /" + path + " HTTP/1.1\r\nHost: localhost\r\nUser-Agent: " + userAgent + "\r\n"
	if cookie != "" {
		text += "Cookie: " + cookie + "\r\n"
	}
	return []byte(text + "\r\n")
}

// A loadResult is what came of one round of load on one server.
type loadResult struct {
	Requests  int     `json:"requests"`
	Failed    int     `json:"failed"` // of them; any status but 200
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	CPU       float64 `json:"server_cpu_us"` // each request
	ClientCPU float64 `json:"client_cpu_us"`
}

// load sends each connection's request over and over for a time.
func load(addr string, requests [][]byte, d time.Duration) (loadResult, error) {
	var (
		stop  atomic.Bool
		group sync.WaitGroup
		mu    sync.Mutex // guards what follows
		sum   loadResult
		all   []float64
		first error
	)
	clients := make([]*client, len(requests))
	for i := range clients {
		c, err := dial(addr)
		if err != nil {
			return sum, err
		}
		defer c.close()
		clients[i] = c
	}
	began, cpu := time.Now(), cpuTime()
	for i, c := range clients {
		group.Go(func() {
			n, failed, took, err := c.repeat(requests[i], &stop)
			mu.Lock()
			defer mu.Unlock()
			sum.Requests += n
			sum.Failed += failed
			all = append(all, took...)
			if first == nil {
				first = err
			}
		})
	}
	time.Sleep(d)
	stop.Store(true)
	group.Wait()
	sum.PerSecond = float64(sum.Requests-sum.Failed) / time.Since(began).Seconds()
	if len(all) > 0 {
		sum.ClientCPU = float64((cpuTime() - cpu).Microseconds()) / float64(sum.Requests)
		slices.Sort(all)
		sum.P50, sum.P99 = all[len(all)/2], all[len(all)*99/100]
	}
	return sum, first
}

func (c *client) repeat(request []byte, stop *atomic.Bool) (n, failed int, took []float64, err error) {
	took = make([]float64, 0, 1<<14)
	then := time.Now()
	for !stop.Load() {
		a, err := c.do(request)
		if err != nil {
			return n, failed, took, err
		}
		n++
		if !a.ok {
			failed++
		}
		now := time.Now()
		took = append(took, float64(now.Sub(then))/1e6)
		then = now
	}
	return n, failed, took, nil
}

// newSessions makes n sessions of 8 values and returns the cookie of each.
func newSessions(addr string, n int) ([]string, error) {
	c, err := dial(addr)
	if err != nil {
		return nil, err
	}
	defer c.close()
	cookies := make([]string, n)
	for i := range cookies {
		a, err := c.do(get("fill", ""))
		if err != nil {
			return nil, err
		}
		if !a.ok {
			return nil, fmt.Errorf("fill: %s", a.body)
		}
		cookies[i] = a.cookie()
	}
	return cookies, nil
}

// A jar is the one cookie jar of a browser with many tabs: each request carries
// what the last answer set.
type jar struct{ cookie atomic.Pointer[string] }

func (j *jar) do(c *client, path string) (answered, error) {
	cookie := ""
	if p := j.cookie.Load(); p != nil {
		cookie = *p
	}
	a, err := c.do(get(path, cookie))
	if err == nil {
		if set := a.cookie(); set != "" {
			j.cookie.Store(&set)
		}
	}
	return a, err
}

// A lostResult is what came of one round of the lost-update test.
type lostResult struct {
	Sent   int `json:"sent"`
	Failed int `json:"failed"` // of them; any status but 200
	Kept   int `json:"kept"`   // by how much the counter rose
}

// loseUpdates has many clients add to the counter of one session at once.
func loseUpdates(addr string, clients, times int) (lostResult, error) {
	c, err := dial(addr)
	if err != nil {
		return lostResult{}, err
	}
	defer c.close()
	var j jar
	if _, err := j.do(c, "fill"); err != nil {
		return lostResult{}, err
	}
	before, err := j.count(c)
	if err != nil {
		return lostResult{}, err
	}
	var (
		group  sync.WaitGroup
		failed atomic.Int64
		errs   = make(chan error, clients)
		start  = make(chan struct{})
	)
	for range clients {
		c, err := dial(addr)
		if err != nil {
			close(start)
			return lostResult{}, err
		}
		group.Go(func() {
			defer c.close()
			<-start
			for range times {
				a, err := j.do(c, "counter")
				if err != nil {
					errs <- err
					return
				}
				if !a.ok {
					failed.Add(1)
				}
			}
		})
	}
	close(start)
	group.Wait()
	if len(errs) > 0 {
		return lostResult{}, <-errs
	}
	after, err := j.count(c)
	return lostResult{Sent: clients * times, Failed: int(failed.Load()), Kept: after - before}, err
}

func (j *jar) count(c *client) (int, error) {
	a, err := j.do(c, "count")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(a.body))
}

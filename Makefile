# make test   all tests; needs Go and make only, and leaves out the stores without a server
# make servers       starts PostgreSQL, MariaDB, Redis and a Redis Cluster for the tests
# make servers-stop  stops them
# make check  what CI runs: fmt, vet, staticcheck, vuln, tools and test
# make api    write api.txt anew after a change of the public surface
# make docs   write the tables in docs that come from the code anew
# make fuzz   each fuzz test for FUZZTIME
# make bench  Crumb against its peers, in one run of some five minutes: docs/performance.md
# make e2e    the pages in Chromium, looked at by axe-core; needs Chromium
# make soak   the large sizes, in some two hours; goes on where it stopped: docs/stores.md

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME = 20s

SERVERS = go run ./internal/servers/cmd

.PHONY: test servers servers-stop check fmt vet staticcheck vuln tools api docs fuzz bench e2e soak

# The race detector needs a C compiler.
test:
	@if command -v $$(go env CC) >/dev/null && [ "$$(go env CGO_ENABLED)" = 1 ]; then \
		echo 'go test -race ./...'; go test -race ./...; \
	else \
		echo 'No C compiler found: the tests run without the race detector.'; \
		echo 'go test ./...'; CGO_ENABLED=0 go test ./...; \
	fi
	@$(SERVERS) left-out

servers:
	@$(SERVERS) start

servers-stop:
	@$(SERVERS) stop

check: fmt vet staticcheck vuln tools test

fmt:
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "gofmt -w these: $$files"; exit 1; fi

vet:
	go vet ./...
	go mod verify
	go mod tidy -diff

staticcheck:
	go run $(STATICCHECK) ./...

vuln:
	@.ci/vuln

# bench and soak are modules of their own, so that their dependencies reach no user.
tools:
	@for dir in bench soak; do \
		echo "go test ./... in $$dir"; \
		(cd $$dir && go mod tidy -diff && go vet ./... && go test ./...) || exit 1; \
	done

api:
	go test ./internal/apitxt -update

docs:
	go test ./internal/house -run Guide -update

fuzz:
	@for pkg in $$(go list ./...); do \
		names=$$(go test -list '^Fuzz' "$$pkg") || { echo "$$names"; exit 1; }; \
		for name in $$(echo "$$names" | grep '^Fuzz'); do \
			echo "$$pkg $$name"; \
			go test "$$pkg" -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) || exit 1; \
		done; \
	done

bench:
	cd bench && go run .

# SOAK holds flags, such as make soak SOAK='-only kill -rounds 100'.
soak:
	cd soak && go run . $(SOAK)

# PICTURES=FOLDER keeps a picture of each page there.
e2e:
	cd e2e && go test -count=1 ./...

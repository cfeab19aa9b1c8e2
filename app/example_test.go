package app_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/crumb-go/crumb/app"
)

type phrasebook map[string]string

type phrasesConfig struct {
	Language string `toml:"language" help:"language of the greeting"`
}

// Phrases provides a phrasebook to the modules that require it.
var phrases = &app.Module{
	Name:   "phrases",
	Config: phrasesConfig{Language: "en"},
	Setup: func(e *app.Env) error {
		books := map[string]phrasebook{"en": {"hello": "Hello"}, "es": {"hello": "Hola"}}
		book, ok := books[app.ConfigOf[phrasesConfig](e).Language]
		if !ok {
			return app.Bad("language", "there is no phrasebook for it", "choose en or es")
		}
		e.Provide(book)
		return nil
	},
}

var greeter = &app.Module{
	Name:     "greeter",
	Requires: []*app.Module{phrases},
	Setup: func(e *app.Env) error {
		book := app.Get[phrasebook](e)
		e.HandleFunc("GET /{name}", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s, %s!", book["hello"], r.PathValue("name"))
		})
		return nil
	},
}

// A test starts an app without a listener. The main function of the same app is
// app.Main(greeter).
func Example() {
	a, err := app.New(app.Options{Args: []string{"--phrases.language", "es"}}, greeter)
	if err != nil {
		log.Fatal(err)
	}
	handler, err := a.Start(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	defer a.Stop(context.Background())

	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "/Ana", nil))
	fmt.Println(w.Body)
	// Output: Hola, Ana!
}

func ExampleApp_Settings() {
	a, err := app.New(app.Options{Environ: []string{"CRUMB_PHRASES_LANGUAGE=es"}}, greeter)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range a.Settings() {
		if s.Value != "" {
			fmt.Printf("%s.%s = %s (%s)\n", s.Table, s.Key, s.Value, s.Source)
		}
	}
	// Output:
	// server.addr = 127.0.0.1:8080 (default)
	// server.insecure = false (default)
	// server.client_ip_header = X-Forwarded-For (default)
	// server.log_format = text (default)
	// phrases.language = es (env CRUMB_PHRASES_LANGUAGE)
}

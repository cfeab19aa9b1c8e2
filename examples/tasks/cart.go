package main

import (
	"net/http"
	"slices"

	"github.com/crumb-go/crumb/session"
)

type cartLine struct {
	Bread string
	N     int
}

var (
	cart   = session.NewKey[[]cartLine]("cart.lines")
	breads = []string{"Rye & caraway", "Sourdough", "Walnut"}
)

func showCart(w http.ResponseWriter, r *http.Request) {
	show(w, r, http.StatusOK, "cart", map[string]any{"Lines": cart.Get(session.From(r)), "Breads": breads})
}

// addToCart uses Update: of two tabs that add at once both lines stay.
func addToCart(w http.ResponseWriter, r *http.Request) {
	bread := r.FormValue("bread")
	if !slices.Contains(breads, bread) {
		http.Error(w, "We do not bake that.", http.StatusBadRequest)
		return
	}
	_, err := cart.Update(r.Context(), session.From(r), func(lines []cartLine) ([]cartLine, error) {
		for i := range lines {
			if lines[i].Bread == bread {
				lines[i].N++
				return lines, nil
			}
		}
		return append(lines, cartLine{bread, 1}), nil
	})
	if err != nil {
		tryLater(w, err)
		return
	}
	http.Redirect(w, r, "/cart", http.StatusSeeOther)
}

func emptyCart(w http.ResponseWriter, r *http.Request) {
	session.From(r).Clear("cart")
	http.Redirect(w, r, "/cart", http.StatusSeeOther)
}

// Circle does not compile: two modules require each other.
package main

import "github.com/crumb-go/crumb/app"

var hen = &app.Module{Name: "hen", Requires: []*app.Module{egg}}

var egg = &app.Module{Name: "egg", Requires: []*app.Module{hen}}

func main() { app.Main(hen) }

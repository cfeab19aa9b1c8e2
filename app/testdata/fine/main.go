// Fine compiles: one module requires another.
package main

import "github.com/crumb-go/crumb/app"

var bread = &app.Module{Name: "bread", Requires: []*app.Module{flour}}

var flour = &app.Module{Name: "flour"}

func main() { app.Main(bread) }

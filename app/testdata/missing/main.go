// Missing does not compile: a module requires one that is not there.
package main

import "github.com/crumb-go/crumb/app"

var bread = &app.Module{Name: "bread", Requires: []*app.Module{flour}}

func main() { app.Main(bread) }

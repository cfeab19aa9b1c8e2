package main

import "context"

func runDurability(ctx context.Context, r *run, f *figures) (*figures, error) { return f, nil }
func childServe(dir string) error                                             { return nil }

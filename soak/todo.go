package main

import "context"

func runOrders(ctx context.Context, r *run, f *figures) (*figures, error)     { return f, nil }
func runSizes(ctx context.Context, r *run, f *figures) (*figures, error)      { return f, nil }
func runMemory(ctx context.Context, r *run, f *figures) (*figures, error)     { return f, nil }
func runSweep(ctx context.Context, r *run, f *figures) (*figures, error)      { return f, nil }
func runDurability(ctx context.Context, r *run, f *figures) (*figures, error) { return f, nil }
func childServe(dir string) error                                             { return nil }

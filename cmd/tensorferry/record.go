package main

import "github.com/tensorferry/tensorferry/job/inference"

// record is what the jobs of this command are made of: one JSON object, as its
// line had it.
type record = inference.Record

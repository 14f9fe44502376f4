// Package flink tests against a real Apache Flink cluster, with the build tag
// integration.
package flink

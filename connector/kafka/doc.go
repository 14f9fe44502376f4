// Package kafka reads Kafka topics and writes to them. It uses the client franz-go.
//
// [Source] reads partitions as splits. The job's checkpoints keep their positions. With a sink that
// is exactly-once, such as files, the job is exactly-once. [Sink] writes results when they come,
// and a checkpoint waits until the brokers have them. That is at least once.
//
// [Group] is for jobs from Kafka to Kafka. It is a member of a consumer group and reads the
// partitions that the group assigns to it. For each checkpoint it publishes results and offsets in
// one transaction. It is also the job's checkpoint store, so all of the job's state is in Kafka.
// Several processes with the same group share the partitions.
//
// # Records and values
//
// A source has a [Decode], which makes a value of a record: [JSON], [Raw] or a function of yours. A
// sink has an [Encode], which makes the record of a value: [JSONValue], [RawValue] or a function of
// yours. The package does not know what a record means.
package kafka

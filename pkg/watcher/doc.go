// SPDX-License-Identifier: Apache-2.0

// Package watcher is the cluster side: from Modules and Nodes it works out what
// each node is to run, writes that into the node's NodeModulesConfig, and turns
// what the nodes report into labels, events, the status of Modules, and the
// DaemonSets that go with them.
//
// What is decided is decided by pure functions (Render, TakesPart, DaemonSets,
// moduleStatus); queues of names carry the work, one for nodes and Modules and one
// for what may have to wait for a registry, and each look reads everything again, so
// that a lost or doubled event is harmless. It writes only what differs. It never
// talks to a node.
package watcher

// SPDX-License-Identifier: Apache-2.0

package devices

// nvmeModule has the modules of the controllers that are below no device with a driver, by what these say of their
// transport: the name in struct nvme_ctrl_ops, drivers/nvme/host and drivers/nvme/target/loop.c.
var nvmeModule = map[string]string{"tcp": "nvme_tcp", "rdma": "nvme_rdma", "fc": "nvme_fc", "loop": "nvme_loop"}

// nvme returns the NVMe controllers that go with a module, and their subsystems. A disk that may be reached by several
// controllers is below the subsystem even if there is only one now, and what is below the controller, nvme0c0n1, has no
// number (drivers/nvme/host/multipath.c, nvme_mpath_alloc_disk; nvme_core.multipath is on where nobody turned it off).
// Who has the disk open holds no reference to the module (nvme_ns_head_open).
func (h *Host) nvme(module string, bound []boundDevice) []boundDevice {
	var list []boundDevice
	const class, subsystems = "sys/class/nvme", "sys/class/nvme-subsystem"
	for _, name := range names(h.path(class)) {
		path := real(h.path(class, name))
		if !on(path, bound) && nvmeModule[h.line(class, name, "transport")] != module {
			continue
		}
		list = append(list, boundDevice{path: path})
		for _, subsystem := range names(h.path(subsystems)) {
			// A link to each of its controllers (drivers/nvme/host/core.c, nvme_init_subsystem).
			if target(h.path(subsystems, subsystem, name)) != "" {
				list = append(list, boundDevice{path: real(h.path(subsystems, subsystem))})
			}
		}
	}
	return list
}

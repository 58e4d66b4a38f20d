// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/record"
)

// tablesFile keeps where the kernel has its tables of symbols until the next boot. Without it they are looked for, so
// that no failure here keeps a module from being loaded.
type tablesFile struct {
	path string // "": none
	boot string
}

type rememberedTables struct {
	BootID string        `json:"bootID"`
	Tables kernel.Tables `json:"tables"`
}

// load gives what was saved in this boot. A table that seems shorter than it is would make symbols of the kernel seem
// missing, hence the seal.
func (f tablesFile) load() (kernel.Tables, bool) {
	sealed, err := os.ReadFile(f.path)
	if err != nil {
		return kernel.Tables{}, false
	}
	object, err := record.Open(sealed)
	if err != nil {
		return kernel.Tables{}, false
	}
	var r rememberedTables
	if err := json.Unmarshal(object, &r); err != nil || f.boot == "" || r.BootID != f.boot {
		return kernel.Tables{}, false
	}
	return r.Tables, true
}

func (f tablesFile) save(t kernel.Tables) error {
	if f.path == "" {
		return nil
	}
	b, err := json.Marshal(rememberedTables{f.boot, t})
	if err != nil {
		return fmt.Errorf("remember where the kernel's symbols are: %w", err)
	}
	tmp := f.path + ".tmp"
	if err = os.WriteFile(tmp, append(record.Seal(b), '\n'), 0o600); err == nil {
		err = os.Rename(tmp, f.path)
	}
	if err != nil {
		return fmt.Errorf("remember where the kernel's symbols are: %w", errors.Join(err, os.RemoveAll(tmp)))
	}
	return nil
}

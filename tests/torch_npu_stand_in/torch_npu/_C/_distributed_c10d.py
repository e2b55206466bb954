class ProcessGroupHCCL:
    class Options:
        def __init__(self, *_) -> None:
            self.hccl_config = {}
            self.global_ranks_in_group = []
            self.group_name = ""
